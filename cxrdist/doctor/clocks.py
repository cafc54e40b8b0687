"""How far two clocks may be apart."""

from __future__ import annotations

SKEW_S, FAR_S = 2.0, 300.0
"""From where a difference is said, and from where servers refuse requests: Kerberos (and NFS with it) at 5 minutes,
S3 at 15."""
CURE = "synchronise it: timedatectl set-ntp true, or chrony"
