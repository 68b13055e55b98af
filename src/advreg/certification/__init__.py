"""Certification: robust accuracy from both sides, proved from below and attacked from above."""

from advreg.certification.certify import CertificationProgress, certify
from advreg.results.certificate import Certification, MethodSummary

__all__ = ["Certification", "CertificationProgress", "MethodSummary", "certify"]
