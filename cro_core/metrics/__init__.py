"""Everything that is compared between a challenger and the control beside the primary conversion: pure.

A metric is one class (:class:`cro_core.metrics.metric.Metric`): its name, the sums it needs, and how it compares,
once where shares are fixed and once by day where they may move.

    metric       what a metric is
    kinds        one class a kind (mean, adjusted mean, rate, ratio of sums) and the table of them
    sums         what was counted of one variant, as arrays over epochs
    by_day       days compared each in itself and combined, where shares may move
    secondary    all secondary metrics of all challengers, p-values adjusted over the family
    guardrails   what no variant may break, read at every look

To add a test for a metric, write its class and enter it in :data:`cro_core.metrics.kinds.KINDS`: its sums are then
counted, compared, adjusted with the family, stored and replayed.
"""
