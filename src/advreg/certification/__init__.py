"""Certification: robust accuracy from both sides, proved from below and attacked from above."""

from advreg.certification.book import CertificationProgress
from advreg.certification.certify import certify
from advreg.certification.smoothing import certify_smoothed
from advreg.results.certificate import Certification, MethodSummary

__all__ = ["Certification", "CertificationProgress", "MethodSummary", "certify", "certify_smoothed"]
