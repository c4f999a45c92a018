"""The statistics of experiments: pure functions of counts and sums, each with the source of its formula.

* one comparison: ``proportions`` (rates), ``means``, ``logistic`` (tables), ``survival`` (times), ``exact`` (tiny counts)
* many: ``multiplicity`` (families and streams), ``shrinkage`` (effects drawn towards their average)
* looking again and again: ``sequential`` (boundaries), ``stagewise`` (estimates at stopping), ``companion`` (e-values),
  ``evalue`` (one that adds up over experiments)
* one look at an experiment: ``combination`` (days combined), ``rules`` (who wins), ``guards``
  (late conversions, effects that fade), ``looks`` (all of it)
* before: ``sample_size``; beside: ``srm`` (is the split as planned?); below: ``arrays`` and ``checks``
"""
