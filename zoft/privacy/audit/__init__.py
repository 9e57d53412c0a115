"""Audits: what somebody who sees a private run can tell about one example, measured and held against the promise."""

from zoft.privacy.audit.audits import audit_release, audit_run
from zoft.privacy.audit.result import AuditResult, Bound
from zoft.privacy.audit.subjects import CANARIES, Releases, Subject, mechanism_subject

__all__ = [
    "CANARIES",
    "AuditResult",
    "Bound",
    "Releases",
    "Subject",
    "audit_release",
    "audit_run",
    "mechanism_subject",
]
