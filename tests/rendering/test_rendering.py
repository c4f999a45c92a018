"""Building blocks, plots and pages, without a browser: markup that is safe, accessible and needs nothing else."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from helpers import report_samples as samples
from markupsafe import Markup

from cro_core.config import Site
from cro_core.domain import Status, Verdict
from cro_core.evidence import Step
from cro_core.jupyter.export import export, page, write_whole
from cro_core.jupyter.runner import record
from cro_core.rendering import cycles, pandas_plots, plots, sections, widgets
from cro_core.rendering.decision_text import decision_text
from cro_core.rendering.html import badge, css, join, named, safe, table, tag, theme
from cro_core.reporting import sheets, words

NASTY = '<script>alert(1)</script> 🎬 فيلم \u202e" onmouseover="alert(2)'


def plain(text: str) -> str:
    return text.replace(words.NBSP, " ")


class TestHtml:
    def test_whatever_is_not_markup_is_escaped(self) -> None:
        assert safe("<b>&\u202e\"'") == "&lt;b&gt;&amp; &quot;&#x27;"
        assert safe(Markup("<b>")) == "<b>"
        assert tag("a", NASTY, "x", Markup("<i></i>"), title='"><script>').count("<") == 4
        assert join(["<", " ", Markup("<b>")]) == "&lt; <b>"
        assert named("a<b") == "<bdi>a&lt;b</bdi>"

    def test_a_table_tells_a_screen_reader_what_is_a_header(self) -> None:
        made = ElementTree.fromstring(table("All", ("Name", "Count"), [("<x>", "1"), ("y", "2")]))
        assert made.get("aria-label") == made.findtext(".//caption") == "All"
        assert (made.get("role"), made.get("tabindex")) == ("region", "0")
        assert [h.get("scope") for h in made.iter("th")] == ["col", "col", "row", "row"]
        assert [c.get("class") for c in made.iter("td")] == ["cro-n", "cro-n"]
        with pytest.raises(ValueError, match="argument"):
            table("All", ("Name", "Count"), [("only one",)])

    def test_a_badge_says_in_words_what_its_colour_repeats(self) -> None:
        assert badge("Not trustworthy", "bad") == '<span class="cro-badge cro-bad">Not trustworthy</span>'
        assert set(sections.TONES) == {*Verdict, None}

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_every_text_is_read_easily_on_its_ground(self, dark: bool) -> None:
        """WCAG AA: a contrast of 4.5 for text, of 3 for what a plot draws."""
        palette = dict(re.findall(r"--cro-([\w-]+): (#[0-9a-f]{6})", css().split("@media")[0]))
        if dark:
            palette |= dict(re.findall(r"--cro-([\w-]+): (#[0-9a-f]{6})", css().split("@media")[1]))
        grounds = [palette[name] for name in ("paper", "card", "soft")]
        for name in ("ink", "quiet", "link"):
            assert min(contrast(palette[name], ground) for ground in grounds) >= 4.5, name
        for tone in ("good", "calm", "busy", "warn", "bad"):
            assert contrast(palette[tone], palette[f"{tone}-soft"]) >= 4.5, tone
        for number in range(len(plots.COLOURS)):
            assert contrast(palette[f"c{number}"], palette["card"]) >= 3, number

    def test_the_style_sheet_has_a_shade_of_every_colour_of_a_line(self) -> None:
        light, dark = (
            dict(re.findall(r"--cro-(c\d): (#[0-9a-f]{6})", part)) for part in css().split("@media")[:2]
        )
        names = [f"c{number}" for number in range(len(plots.COLOURS))]
        assert list(light) == list(dark) == names
        for number, colour in enumerate(plots.COLOURS):
            shades = [hue(palette[f"c{number}"]) for palette in (light, dark)]
            assert shades == pytest.approx([hue(colour)] * 2, abs=5), colour
            assert f".cro-c{number}" in css()
            assert f".cro-s{number} {{ stroke: var(--cro-c{number}); }}" in css()


def hue(colour: str) -> float:
    """In degrees."""
    return 360 * colorsys.rgb_to_hls(*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class TestPlots:
    def svg(self, markup: str) -> ElementTree.Element:
        made = ElementTree.fromstring(markup)
        assert made.get("role") == "img"
        assert made.get("aria-label") == made.findtext("title")
        return made

    def test_an_interval_is_drawn_where_its_numbers_are(self) -> None:
        ranges = [plots.Range("A", 0.10, 0.08, 0.12, 0), plots.Range(NASTY, 0.14, 0.12, 0.17, 1)]
        made = self.svg(plots.rates(ranges, f"Rates of {NASTY}"))
        dots = [float(dot.get("cx", "")) for dot in made.iter("circle")]
        spans = [line for line in made.iter("line") if (line.get("class") or "").startswith("cro-s")]
        low, high = (float(spans[0].get(end, "")) for end in ("x1", "x2"))
        assert low < dots[0] < high == pytest.approx(float(spans[1].get("x1", "")))
        unit = (dots[1] - dots[0]) / 0.04
        assert (high - low) / 0.04 == pytest.approx(unit, abs=3)
        assert low >= plots.LEFT
        assert float(spans[1].get("x2", "")) <= plots.RIGHT
        assert "alert(1)" in "".join(made.itertext())

    def test_labels_of_an_axis_stay_inside_and_apart(self) -> None:
        for low, high in ((-0.2, 0.3), (0.38, 1.57), (-0.004, 0.011), (-0.98, 12.4)):
            made = self.svg(plots.uplifts([plots.Range("A", (low + high) / 2, low, high)], "Uplift", 0.1))
            at = [float(t.get("x", "")) for t in made.iter("text") if t.get("class") == "cro-tick"]
            assert 2 <= len(at) <= 6
            assert all(b - a >= plots.TICK for a, b in pairwise(at))
            assert all(plots.TICK / 2 <= x <= plots.WIDTH - plots.TICK / 2 for x in at)

    @pytest.mark.parametrize(("target", "apart"), [(0.02, True), (0.9, False)])
    def test_labels_of_close_marks_stand_below_each_other(self, target: float, apart: bool) -> None:
        made = self.svg(plots.uplifts([plots.Range("A", 0.4, -0.1, 0.95)], "Uplift", target))
        heights = {t.text: t.get("y") for t in made.iter("text") if t.get("class") == "cro-note"}
        assert list(map(plain, map(str, heights))) == [
            "no difference",
            f"worth it: +{target:.1%}".replace("%", " %"),
        ]
        assert (len(set(heights.values())) == 2) is apart

    def test_nothing_is_drawn_from_nothing(self) -> None:
        assert plots.rates([plots.Range("A", None, None, None)], "Rates") == ""
        assert plots.uplifts([], "Uplift") == ""
        assert plots.step(0, 3, 0, "left") == ""

    @pytest.mark.parametrize(("share", "width"), [(0.0, 0.0), (0.42, 126.0), (1.7, 300.0)])
    def test_a_bar_is_filled_to_its_share(self, share: float, width: float) -> None:
        _, filled = self.svg(plots.progress(share, "42 of 100")).iter("rect")
        assert float(filled.get("width", "")) == width

    def test_a_threshold_shows_the_value_before_the_line_that_decides(self) -> None:
        made = self.svg(plots.threshold(2.0, 3.84, "Chi-square 2.00"))
        (line,) = made.iter("line")
        filled = list(made.iter("rect"))[1]
        assert float(filled.get("width", "")) / float(line.get("x1", "")) == pytest.approx(
            2.0 / 3.84, abs=0.01
        )


class TestReconciliation:
    def steps(self, *found: tuple[str, int]) -> tuple[Step, ...]:
        return tuple(Step(step, count, "") for step, count in found)

    def test_the_bars_fall_from_received_to_counted(self) -> None:
        of = samples.experiment("hero", "Hero")
        steps = self.steps(("received", 100), ("duplicate", 10), ("bot", 0), ("crossover", 20), ("counted_exposure", 60),
                           ("counted_goal", 10))  # fmt: skip
        html = sections.numbers(replace(samples.empty(), sheets=(sheets.sheet(of, None, steps),))).html
        table = ElementTree.fromstring(html).find(".//table")
        assert table is not None
        assert table.findtext("caption") == "What became of the 100 events received"
        rows = [
            ("".join(row[0].itertext()).split(":")[0], row[1].text, *place(row))
            for row in table.iterfind("tbody/tr")
        ]
        said = [(count, start / 3, width / 3) for _, count, start, width in rows]
        assert said == [("100", 0, 100), ("20", 80, 20), ("10", 70, 10), ("60", 0, 60), ("10", 60, 10)]
        assert "− visitor had met another variant before" in rows[1][0]
        assert "= Goals counted" in rows[4][0]

    def test_what_is_not_explained_is_shown(self) -> None:
        of = samples.experiment("hero", "Hero")
        steps = self.steps(("received", 10), ("unexplained", 4), ("counted_exposure", 6))
        html = sections.numbers(replace(samples.empty(), sheets=(sheets.sheet(of, None, steps),))).html
        assert "not explained: please report this" in html

    def test_every_test_with_events_has_one(self) -> None:
        html = sections.numbers(samples.report()).html
        assert html.count("<caption>What became of the") == 4
        assert "No events have been received yet." in sections.numbers(samples.empty()).html


def place(row: ElementTree.Element) -> tuple[float, float]:
    rect = row.find(".//rect")
    assert rect is not None
    return float(rect.get("x", "")), float(rect.get("width", ""))


class TestSections:
    def test_the_ten_seconds_hold_decision_evidence_worth_and_what_to_do(self) -> None:
        html = plain(sections.top(samples.report()).html)
        brief = re.findall(
            r"<dt>(.*?)</dt><dd>(.*?)</dd>", html.split('class="cro-brief"')[1].split("</dl>")[0]
        )
        assert [label for label, _ in brief] == ["Decided", "Evidence", "Worth", "To do"]
        assert brief[0][1].startswith("Winner found in “Hero: photo or film”, not trustworthy in")
        assert "+25.0 % conversions with “Film of the dance”" in brief[1][1]
        assert brief[2][1].startswith("+20 conversions per 1,000 visitors: about +140 a week")
        assert brief[3][1] == "Approve or reject: Start cta-2: a shorter button text (and 2 more steps below)"
        assert "Mon 9 Mar 2026 to Mon 16 Mar 2026, 09:00 · times are Europe/Copenhagen" in html
        assert "These visitors and this calendar are simulated." in html
        assert "simulated" not in sections.top(samples.report(simulated=False)).html

    def test_numbers_that_cannot_be_trusted_are_not_drawn(self) -> None:
        cards = sections.decided(samples.report()).html.split("<article")[1:]
        assert ["<svg" in card for card in cards] == [True, False, True]
        assert "none of which can be used" in cards[1]
        assert "unproven pick" in cards[2]

    def test_a_running_test_shows_progress_and_that_its_numbers_do_not_count_yet(self) -> None:
        html = plain(sections.running(samples.report()).html)
        assert "4,180 of 10,000 planned visitors counted (42 %)" in html
        assert "Chi-square 9.40; at this hour 10.89 decides" in html
        assert "at the latest on Wed 18 Mar 2026" in html
        assert html.count("4,180 of 10,000 planned visitors are counted") == 1

    def test_a_broken_split_is_said_first(self) -> None:
        broken = replace(
            samples.report().running[0], split="alarm", split_text="Visitors were NOT divided as planned."
        )
        html = sections.running(replace(samples.empty(), sheets=(broken,))).html
        assert html.index("Visitors were NOT divided") < html.index("Too early to say")

    def test_a_winner_that_was_taken_back_says_so(self) -> None:
        won = replace(samples.report().winners[0], taken_back=True)
        made = replace(samples.report(), sheets=(won,))
        assert "taken back since" in sections.decided(made).html
        assert "No test has had a proven winner yet." in sections.winners(made).html

    def test_winners_and_unproven_picks_stand_apart(self) -> None:
        proven, picks = plain(sections.winners(samples.report()).html).split("<h3>Unproven picks</h3>")
        assert "Hero: photo or film" in proven
        assert "+25.0 %" in proven
        assert "Order of the gallery" in picks
        assert "Order of the gallery" not in proven

    def test_the_choice_narrows_to_one_test_with_its_waterfall(self) -> None:
        made = samples.report()
        assert sections.choices(made)[0] == ("All tests", "")
        assert [key for _, key in sections.choices(made)[1:]] == ["hero", "cta", "gallery", "wedding-hero"]
        everything, one = sections.chosen(made, "").html, sections.chosen(made, "cta").html
        assert everything.count("<article") == 4
        assert one.count("<h3>") == one.count("<h3><bdi>Words on the button</bdi></h3>") == 2
        assert "What became of the" in one
        assert "What became of the" not in everything

    def test_the_widget_follows_the_choice(self) -> None:
        choice, view = widgets.tests(samples.report()).children
        before = view.value
        choice.value = "cta"
        assert view.value != before
        assert "Words on the button" in view.value
        assert "Order of the gallery" not in view.value

    def test_blocks_show_themselves_in_a_notebook_and_in_a_terminal(self) -> None:
        made = samples.report()
        for block in (sections.top(made), sections.changes(made), sections.todo(made), theme()):
            bundle = block._repr_mimebundle_()
            assert bundle["text/html"].startswith('<div class="cro">')
            assert bundle["text/plain"]


class TestCycles:
    SITE = Site(name="Fjord <Events>", time_zone="Europe/Copenhagen")

    def test_a_quiet_hour_says_that_nothing_was_changed(self) -> None:
        block = cycles.summary(samples.NOW, self.SITE, [], [], None)
        assert "Fjord &lt;Events&gt;</bdi>, Mon 16 Mar, 09:00 (Europe/Copenhagen)" in block.html
        assert "Nothing was changed." in block.html
        assert cycles.looked_at([]).text == "No test was running."
        assert cycles.progress([]).text == "No test has a planned number of visitors."
        assert cycles.verdicts([]).text == "No test was due."

    def test_a_failure_asks_for_a_person(self) -> None:
        failures = [{"experiment": "hero", "error": "ValueError: <no>"}]
        block = cycles.summary(samples.NOW, self.SITE, ["cta: ended"], failures, None)
        assert "Needs a person" in block.html
        assert "hero: ValueError: &lt;no&gt;" in block.html
        assert block.text == "cta: ended\nhero: ValueError: <no>"

    def test_each_running_test_has_a_row_a_bar_and_where_due_a_verdict(self) -> None:
        going, done = samples.experiment("going", "Going"), samples.experiment("done", "Done")
        taken = [
            samples.decision(going, Verdict.CONTINUE, [(2500, 200), (2500, 210)]),
            samples.decision(done, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b"),
        ]
        assert cycles.looked_at(taken).text == "going: continue\ndone: ship"
        assert "5,000 of 10,000 visitors (50 %)" in plain(cycles.progress(taken).html)
        verdicts = cycles.verdicts(taken)
        assert "going" not in verdicts.html
        assert verdicts.text == "The verdict is ship."


def test_rates_by_slice_show_the_largest_first() -> None:
    units = pd.DataFrame({"device": ["phone"] * 60 + ["<desk>"] * 40, "converted": [True] * 6 + [False] * 94})
    block = pandas_plots.rates(units, "device", "Rate by device")
    assert plain(block.text) == "Rate by device\nphone (60) 10.0 %\n<desk> (40) 0.00 %"
    assert "<desk>" not in block.html
    assert pandas_plots.rates(units[:0], "device", "Rate by device").text == "Nobody is counted yet."


def test_a_decision_for_the_terminal_holds_every_number() -> None:
    of = samples.experiment("hero", "Hero")
    text = decision_text(samples.decision(of, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b"))
    for said in (
        "The verdict is ship.", "verdict  ship, show b", "split    ok", "a (control)", "8.00 %", "uplift      +25.0 %",
        "chi-square  9.4000, as if looked at once p = .002; with Yates' correction p = .003", "       30,000  Events received",
        "-         333  sent twice", "=      10,000  Visitors counted",
    ):  # fmt: skip
        assert said in text
    assert words.NBSP not in text


class TestPages:
    def notebook(self, *outputs: Any, report: bool = False) -> Any:
        node = nbformat.v4.new_notebook(metadata={"cro": {"page": "report"}} if report else {})
        code = nbformat.v4.new_code_cell("x = '<secret>'", outputs=list(outputs))
        node.cells = [nbformat.v4.new_markdown_cell(f"# Look {NASTY}\n\nWhy."), code]
        return node

    def test_a_page_asks_for_nothing_and_runs_nothing(self) -> None:
        html = samples.as_page(samples.report(site=NASTY, name=NASTY))
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html
        assert list(addresses(html)) == []
        assert not re.search('<(script|iframe|object|embed|link(?! href="data:," rel="icon"))', html)
        assert not re.search(r"<[^>]*\son\w+=", html)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "\u202e" not in html

    def test_a_report_hides_code_and_what_is_for_analysts(self) -> None:
        html = samples.as_page(samples.report())
        assert "open_or_sample" not in html
        assert "papermill" not in html
        assert "Read by everybody with a stake in the website" not in html
        assert html.count("<h1>") == 1
        assert re.findall(r"<h2[^>]*>(.*?)</h2>", html)[:2] == [
            "What was decided",
            "Running tests",
        ]

    def test_other_notebooks_show_code_folded_and_the_outcome(self) -> None:
        outcome = nbformat.v4.new_output("execute_result", record({"rate": 0.5})._repr_mimebundle_())
        html = page(self.notebook(outcome, nbformat.v4.new_output("stream", text="\x1b[31mred<b>\x1b[0m")))
        assert "<summary>Code</summary><pre><code>x = '&lt;secret&gt;'</code></pre></details>" in html
        assert "Recorded outcome" in html
        assert "<pre>red&lt;b&gt;</pre>" in html
        assert "<title>Look &lt;script&gt;" in html

    def test_an_error_is_shown_as_text(self) -> None:
        error = nbformat.v4.new_output("error", ename="E", evalue="v", traceback=["\x1b[31mE<b>: v\x1b[0m"])
        assert "<pre>E&lt;b&gt;: v</pre>" in page(self.notebook(error))

    def test_a_picture_is_part_of_the_page(self) -> None:
        png = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
        assert '<img alt="Plot" src="data:image/png;base64,iVBORw0KGgo="/>' in page(self.notebook(png))

    def test_it_is_written_beside_its_notebook(self, tmp_path: Path) -> None:
        nbformat.write(self.notebook(), tmp_path / "look.ipynb")
        assert export(tmp_path / "look.ipynb") == tmp_path / "look.html"
        assert sorted(f.name for f in tmp_path.iterdir()) == ["look.html", "look.ipynb"]

    def test_a_file_is_replaced_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "report.txt"
        write_whole(file, "old")
        with file.open() as reader:
            write_whole(file, "new")
            assert reader.read() == "old"
        assert file.read_text() == "new"
        assert [f.name for f in file.parent.iterdir()] == ["report.txt"]

    def test_the_report_of_a_year_is_still_small(self) -> None:
        made = samples.report()
        of = samples.experiment("x", "X", Status.ARCHIVED, winner="b")
        old = sheets.sheet(of, samples.decision(of, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b"))
        many = tuple(replace(old, id=f"t{i}", ended_at=samples.NOW - timedelta(days=i)) for i in range(50))
        assert len(samples.as_page(replace(made, sheets=many)).encode()) < 500_000


def addresses(html: str) -> Iterator[str]:
    """What the page would load: every address in an attribute or a style."""
    for found in re.findall(
        r"""(?:src|href|srcset|action|data|poster)=["']([^"']+)|url\(([^)]+)\)|@import (\S+)""", html
    ):
        address = "".join(found)
        if not address.startswith(("data:", "#")):
            yield address
