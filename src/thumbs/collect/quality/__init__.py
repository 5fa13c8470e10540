"""What the judgements are worth: who agrees with whom, what moves people other than quality, which generator wins.

`Judged.of(votes, facts)` reads the votes once, into columns; every statistic takes that. All are pure: the same votes
and seed give the same numbers.
"""
