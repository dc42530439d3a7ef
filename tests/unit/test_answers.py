"""Grades of written answers, against published vectors and the rules that they follow."""

from __future__ import annotations

import pytest

from damoc.config import EvaluationConfig
from damoc.data.example import Example
from damoc.evaluation.answers import exact_match, figures_match, normalised, quantity, token_f1
from damoc.evaluation.free_form import rouge
from damoc.evaluation.tasks.financial_qa import grade as grade_figures
from damoc.evaluation.tasks.short_answer import grade as grade_short


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("The  Brain of Morbius!", "brain of morbius"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("a.m.", "am"),
        ("£20,980", "£20980"),
        ("Unanswerable.", ""),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text, bare):
    assert normalised(text) == bare


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Denver Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos", "The Denver Broncos"], 0.0, 2 / 3),
        ("the the Broncos of Denver", ["Denver Broncos"], 0.0, 0.8),
        ("in 1836", ["1836", "the year 1836"], 0.0, 2 / 3),
        ("", ["unanswerable"], 1.0, 1.0),
        ("unanswerable", ["unanswerable"], 1.0, 1.0),
        ("Denver", ["unanswerable"], 0.0, 0.0),
        ("unanswerable", ["Denver"], 0.0, 0.0),
        ("", ["Denver", "the"], 0.0, 0.0),
        ("a a b", ["b b a"], 0.0, 2 / 3),
    ],
)
def test_exact_match_and_f1_take_the_best_reference(answer, golds, exact, f1):
    assert exact_match(answer, golds) == exact
    assert token_f1(answer, golds) == pytest.approx(f1)
    row = Example("0", "i", "", golds[0], aliases=tuple(golds[1:]))
    assert grade_short(row, answer, EvaluationConfig()) == {"f1": pytest.approx(f1), "exact_match": exact}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,204", 1204.0),
        ("$ 1,204.5 million.", 1204.5e6),
        ("(3.2)", -3.2),
        ("$(516) thousand", -516e3),
        ("-15%", -0.15),
        ("15 percent", 0.15),
        (".5", 0.5),
        ("2.1bn", 2.1e9),
    ],
)
def test_numbers_are_read_with_what_belongs_to_them(text, value):
    assert quantity(text).value == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "yes", "2018; 2019", "5 apples", "1,2", "3-4", "about 5", "1.2.3", "(", "million"]
)
def test_what_is_no_number_is_none(text):
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "unscaled"),
    [
        ("0.63", "0.62946", 1, 1),
        ("62.9%", "0.62946", 1, 0),
        ("0.6", "0.62946", 0, 0),
        ("62.946", "0.62946", 0, 0),
        ("2019", "2020", 0, 0),
        ("2020", "2020", 1, 1),
        ("8095", "-8095", 0, 0),
        ("(8,095)", "-8095", 1, 1),
        ("40.6 million", "40,615 thousand", 1, 0),
        ("40,615", "40,615 thousand", 0, 1),
        ("92.3%", "92.27%", 1, 1),
        ("0", "0.00", 1, 1),
        ("1,350", "1342", 0, 0),
        ("2019; 2018", "2018; 2019", 1, 1),
        ("2018; 2018", "2018; 2019", 0, 0),
        ("2018", "2018; 2019", 0, 0),
        ("Yes.", "yes", 1, 1),
        ("no", "yes", 0, 0),
        ("the deferred tax; Derivative financial instruments", "Derivative financial instruments; Deferred tax", 1, 1),
        ("", "246", 0, 0),
    ],
)
def test_figures_agree_as_precisely_as_both_are_written(answer, reference, exact, unscaled):
    assert figures_match(answer, reference, 0.01) == exact
    assert figures_match(answer, reference, 0.01, scaled=False) == unscaled
    found = grade_figures(Example("0", "i", "", reference), answer, EvaluationConfig())
    assert (found["exact_match"], found["unscaled_match"]) == (exact, unscaled)


def test_the_tolerance_is_that_of_the_config():
    row = Example("0", "i", "", "0.62946")
    assert grade_figures(row, "0.6", EvaluationConfig(tolerance=0.05))["exact_match"] == 1.0
    assert grade_figures(row, "0.63", EvaluationConfig(tolerance=0.0))["exact_match"] == 0.0


def test_rouge_is_that_of_hand_counted_words():
    """Stemmed: transfers and transfer are one word; five words against four, of which the first three are shared."""
    row = Example("0", "Summarise.", "", "The bill transfers old land")
    found = rouge(row, "the bill transfer money", EvaluationConfig())
    assert found["rouge_1"] == pytest.approx(2 * 3 / 9)
    assert found["rouge_2"] == pytest.approx(2 * 2 / 7)
    assert found["rouge_l"] == pytest.approx(2 * 3 / 9)
    other = Example("0", "Summarise.", "", "nothing", aliases=("The bill transfers old land",))
    assert rouge(other, "the bill transfer money", EvaluationConfig()) == found
