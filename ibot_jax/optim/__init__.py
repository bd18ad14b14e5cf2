"""The Optax chain, its schedules, and the teacher as its last link."""
