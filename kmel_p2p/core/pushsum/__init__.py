"""The second averaging mode: weighted push-sum with transfers that never lose mass (docs/averaging.md).

Every site holds `(sum, mass)`; its trunk is their quotient. Training moves the sum, transfers move a share of both to
another site. What one site is debited is to the last bit what the other is credited, once, so the federation's
weighted mean depends neither on loss nor on order. For federations in which not everybody can hold every log.
"""
