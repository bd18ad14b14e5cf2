"""What programs show of their doings while they go on."""
