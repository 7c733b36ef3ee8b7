"""The ledger: every site's hash-chained log of signed deltas, and the trunk that is their exact sum.

A set-union CRDT (Shapiro et al., 2011): entries are applied once each, in any causal order, as exact integers, so
peers with equal vectors hold bit-identical trunks. Loss, duplication, reordering and delay only cost time.
"""
