"""Certification: robust accuracy from both sides, proved from below and attacked from above."""

from advreg.certification.book import CertificationProgress
from advreg.certification.certify import CertifySettings, certify, certify_as_recorded
from advreg.certification.smoothing import certify_smoothed
from advreg.certification.two_sided_curve import certified_curve
from advreg.results.certificate import Certification, MethodSummary

__all__ = [
    "Certification",
    "CertificationProgress",
    "CertifySettings",
    "MethodSummary",
    "certified_curve",
    "certify",
    "certify_as_recorded",
    "certify_smoothed",
]
