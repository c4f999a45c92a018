"""From the counts of an experiment to a decision: pure, and the same for cycle, API and replay.

One verb for each step of judging::

    events
      | count         workflows.evaluate    reads: counted units by epoch and variant, and what is measured beside them
      v
    cells, slices
      | check_split   decision.split_check  did the visitors split as planned? a broken split vetoes any winner
      v
    split
      | take_look     statistics.looks      one look: statistics, boundaries, and what the next look starts from
      v
    look
      | conclude      decision.policy       what the site's policy makes of it: verdict, variant to show, argument
      v
    conclusion

    decide    = check_split, take_look, conclude and the guardrails: pure      decision.decide
    evaluate  = count, then decide: reads, changes nothing                     workflows.evaluate

What a decision rests on goes with it as :class:`cro_core.evidence.Evidence`; :mod:`~cro_core.decision.figures` and
:mod:`cro_core.metrics` compute its parts, :mod:`~cro_core.decision.wording` says it in words.
"""
