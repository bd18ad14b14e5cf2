"""What programs show: of their doings while they go on, and pages of what they found."""
