from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from damoc.condense.rules import rule_name, violations
from damoc.condense.words import split_words

texts = st.text(
    alphabet=st.one_of(st.sampled_from("no yes maybe. ?5%,1\n"), st.characters(blacklist_categories=["Cs"])),
    max_size=60,
)
words = st.lists(
    st.sampled_from("the not no yes maybe, never 5 12 3.5% 1,000 doesn't Why? end. 東京 ok".split()),
    min_size=1,
    max_size=15,
)


@given(texts, st.lists(texts, max_size=3))
def test_a_text_breaks_no_rule_against_itself(text, fixed):
    assert violations(text, text, fixed, len(split_words(text))) == ()


@given(words, st.data())
def test_a_text_that_loses_a_number_is_refused(own, data):
    numbers = [place for place, word in enumerate(own) if re.search(r"\d", word)]
    assume(numbers)
    place = data.draw(st.sampled_from(numbers))
    candidate = " ".join(own[:place] + own[place + 1 :])
    assert violations(" ".join(own), candidate)[0].startswith(("empty", "numbers changed"))


@given(words, st.integers(0, 99), st.data())
def test_a_text_in_which_a_digit_changes_is_refused(own, digit, data):
    text = " ".join(own)
    places = [place for place, character in enumerate(text) if character.isdigit() and character != str(digit % 10)]
    assume(places)
    place = data.draw(st.sampled_from(places))
    changed = text[:place] + str(digit % 10) + text[place + 1 :]
    assert "numbers changed" in [rule_name(rule) for rule in violations(text, changed)]


@pytest.mark.parametrize(
    ("original", "candidate", "rule"),
    [
        ("All of it.", " \n", "empty"),
        ("All of it.", "All of it and more.", "too long: longer than the original"),
        ("It costs 1,000 or 5 %.", "costs 1,000 or 5%.", None),
        ("It costs 1,000 a year.", "costs 1000 year.", "numbers changed: missing 1,000; new 1000"),
        ("Two of 5 and 5 of 7.", "5 of 7.", "numbers changed: missing 5"),
        ("It falls to -3 at night.", "falls to 3 night.", "numbers changed: missing -3; new 3"),
        ("a ratio of 3:4 here", "ratio of 4:3 here", "numbers changed: missing 3:4; new 4:3"),
        ("grows by 3.5% and more", "grows 3.5 and more", "numbers changed: missing 3.5%; new 3.5"),
        ("the dose is high today", "dose 9 is high", "numbers changed: new 9"),
        ("٣ of the apples here", "of the apples here", "numbers changed: missing ٣"),
        ("It does not do that.", "doesn't do that.", None),
        ("It does not do that.", "does do that.", "negations changed: 0 where the original has 1"),
        ("It really works well.", "It never works well.", "negations changed: 1 where the original has 0"),
        ("There is a risk for non-smokers.", "risk for smokers.", "negations changed: 0 where the original has 1"),
        ("他不喜欢这个东西吗，真的", "他喜欢这个东西吗，真的", "negations changed: 0 where the original has 1"),
        ("Yes, it works very well.", "Yes, works well.", None),
        ("Yes, it works very well.", "It works very well.", "yes or no changed"),
        ("Yes, it works very well.", "Maybe, it works well.", "yes or no changed"),
        ("It works for all of us.", "Yes. Works for all.", "yes or no changed"),
        ("We asked. Maybe so, they said.", "We asked. So, they said.", "yes or no changed"),
        ("Is the drug safe for them?", "Is drug safe?", None),
        ("Is the drug safe for them?", "The drug is safe.", "question lost"),
        ("Is the drug safe? Tell us now.", "Drug safe. Tell now.", "question lost"),
        ("Tell us about the drug now.", "What of drug?", "question added"),
        ("这个药物对他们安全吗？", "这个药物安全。", "question lost"),
        ("The tower in Tokyo (東京).", "Tower in Tokyo.", None),
        ("The tower in the city.", "東京タワー。", "script changed"),
        ("東京タワーは町の中にあります town", "town", "script changed"),
        ("The text is about a long river.", "Sure, here is a river.", "chat phrase"),
        ("Here is the long text of it.", "Here is text.", None),
    ],
)
def test_what_is_refused_and_why(original, candidate, rule):
    assert violations(original, candidate) == ((rule,) if rule else ())


def test_a_limit_of_words_is_kept():
    assert violations("one two three four", "one two three", max_words=3) == ()
    assert violations("one two three four", "one two three", max_words=2) == ("too long: 3 words where 2 are allowed",)


@pytest.mark.parametrize(
    ("original", "candidate", "rule"),
    [
        ("The Big Red test was run then.", "Big red test then.", None),
        ("The Big Red test was run then.", "Red test run then.", "answer lost: big red"),
        ("The Big Green test was run then.", "Big red test.", "answer given away: big red"),
        ("The bigred test was run by all.", "bigred test run", None),
    ],
)
def test_a_fixed_text_neither_goes_nor_comes(original, candidate, rule):
    assert violations(original, candidate, ["", "big red"]) == ((rule,) if rule else ())


def test_every_broken_rule_is_told():
    told = violations("Is 5 not enough for them?", "Yes, enough for all of them.", ["all"])
    assert [rule_name(rule) for rule in told] == [
        "too long",
        "numbers changed",
        "negations changed",
        "yes or no changed",
        "answer given away",
        "question lost",
    ]
