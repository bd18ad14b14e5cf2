"""What the section `gram` says of the networks and views that take part."""

from ibot_jax.config.section import Section


def anchor_is_kept(gram: Section) -> bool:
    """Returns whether there is a gram teacher beside the teacher, which sees views of its own."""
    return bool(gram.weight) and gram.teacher == "earlier"


def gram_size(gram: Section, data: Section) -> tuple[int, int]:
    """Returns height and width in pixels of what the gram teacher sees of a global view."""
    height, width = (round(side * gram.scale) for side in data.global_size)
    return height, width


def updated_at(step: int, start: int, every: int, most: int, *, given: bool) -> int | None:
    """Returns the step before which the gram teacher became what it is in a step.

    Args:
      step: of the run.
      start: before that step the teacher becomes the first gram teacher, where none is given.
      every: steps from there between updates; 0 for none.
      most: updates that there may be; 0 for any number.
      given: whether the first gram teacher is another network.

    Returns:
      The step; None while it is the given one, or none is needed.
    """
    updates = (step - start) // every if every and step >= start else 0
    if most:
        updates = min(updates, most)
    if updates:
        return start + updates * every
    return start if step >= start and not given else None
