"""Draws that are given, in place of a generator's."""


class Dice:
    """Yields these numbers in turn; notes below what whole ones were asked for."""

    def __init__(self, *draws):
        self.left, self.limits = list(draws), []

    def random(self):
        return self.left.pop(0)

    def integers(self, limit):
        self.limits.append(limit)
        return self.left.pop(0)

    def permutation(self, number):
        order = self.left.pop(0)
        assert sorted(order) == list(range(number))
        return order
