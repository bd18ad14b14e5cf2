"""Many tasks in one go, and a page on which published figures stand beside what they found."""
