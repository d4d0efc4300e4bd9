"""Approval: plans are proposed, approved or rejected, and operators are notified."""
