from __future__ import annotations

import pickle

from damoc.errors import CandidateError, DamocError, InfrastructureError, Problem


def test_an_error_says_where_what_and_how_to_mend_it():
    error = DamocError("the answer is empty", "data.jsonl:12 field 'output'", "fill it")
    assert str(error) == "data.jsonl:12 field 'output': the answer is empty\n    fix: fill it"
    assert error.problems == (Problem("the answer is empty", "data.jsonl:12 field 'output'", "fill it"),)
    assert error.exit_code == 2


def test_several_problems_are_said_at_once():
    problems = [Problem("wrong", "a", "mend a"), Problem("missing", "b", "add b")]
    error = DamocError.from_problems(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "a: wrong\n    fix: mend a\nb: missing\n    fix: add b"


def test_problems_keep_the_kind_of_their_error():
    assert type(InfrastructureError.from_problems([Problem("a", "b", "c")])) is InfrastructureError


def test_a_candidates_failure_has_its_status_and_reason():
    error = CandidateError("oom", "out of memory at step 3")
    assert (error.status, error.reason, str(error)) == (
        "oom",
        "out of memory at step 3",
        "oom: out of memory at step 3",
    )


def test_errors_cross_process_boundaries_whole():
    several = pickle.loads(pickle.dumps(DamocError.from_problems([Problem("a", "b", "c"), Problem("d", "e", "f")])))
    assert [problem.what for problem in several.problems] == ["a", "d"]
    assert str(several).count("fix:") == 2
    candidate = pickle.loads(pickle.dumps(CandidateError("timeout", "too slow")))
    assert (candidate.status, candidate.reason) == ("timeout", "too slow")
