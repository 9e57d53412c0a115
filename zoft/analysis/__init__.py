"""Theory beside practice: what zeroth-order training should do, computed, to hold what it does against."""
