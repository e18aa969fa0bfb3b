"""Types of options that are numbers, which the parser checks before anything is loaded. No torch here.

Constructors state the range that an option has; these types keep out what no range has: infinities, NaN, and integers
that no counter holds.
"""

from math import inf

from jsonargparse.typing import restricted_number_type, restricted_string_type

#: One more than the largest count, as of examples, steps or columns.
BEYOND = 2**31

Finite = restricted_number_type("Finite", float, [(">", -inf), ("<", inf)], docstring="a finite number")
NonNegative = restricted_number_type(
    "NonNegative", float, [(">=", 0.0), ("<", inf)], docstring="a finite number of 0 or more"
)
Share = restricted_number_type("Share", float, [(">", 0.0), ("<=", 1.0)], docstring="a share above 0 and up to 1")
Momentum = restricted_number_type("Momentum", float, [(">=", 0.0), ("<", 1.0)], docstring="a factor of 0 to below 1")
Integer = restricted_number_type(
    "Integer", int, [(">", -BEYOND), ("<", BEYOND)], docstring="an integer of at most 31 bits"
)
Count = restricted_number_type("Count", int, [(">=", 1), ("<", BEYOND)], docstring="a count of 1 or more")
Threads = restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)], docstring="a number of threads, 1 to 1024")
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)], docstring="a seed of 0 or more, below 2^32")
NoLimit = restricted_number_type("NoLimit", int, [("==", -1)], docstring="-1, no limit")
Duration = restricted_string_type(
    "Duration", r"^(?![0:]+$)\d+:\d\d:\d\d:\d\d$", docstring="a duration above 0 as DD:HH:MM:SS"
)
SaveEvery = restricted_string_type(
    "SaveEvery", r"^[1-9]\d{0,8} (steps?|minutes?)$", docstring="a number of steps or minutes, as in '10 minutes'"
)
