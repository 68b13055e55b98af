"""What hardening does differently for images and for texts."""
