"""The picture of the README: queries of `test`, what the network drafted, and the answers.

    python results/picture.py config/quadtree.py [--key=value ...]    # after training with it; writes results/drafts.svg
"""
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))
import config as knobs                                         # noqa: E402
import evaluate                                                # noqa: E402
import train                                                   # noqa: E402
from data.show import svg                                      # noqa: E402
from model import from_checkpoint                              # noqa: E402


def main(argv):
    config, _ = knobs.load([*argv, "--views=1"])
    device, _ = train.pick_device(config)
    model, _ = from_checkpoint(f"{config.out_dir}/ckpt.pt", device)
    tasks = train.load_data(config)["test"]
    chosen = [next(t for t in tasks if t.id.startswith(family + "/") and t.train[0][0].shape[0] < 4)     # the first, right or wrong
              for family in ("1d_fill", "1d_mirror", "1d_flip", "1d_recolor_cnt", "2d_hollow", "2d_pcopy_mc")]
    drafts, *_ = evaluate.draft(model, chosen, config, {}, device)
    rows = [[("demonstration", a, None), ("its output", b, None), ("query", *task.test[0][:1], None), ("draft", drafts[i].grid, task.test[0][1])]
            for i, task in enumerate(chosen) for a, b in task.train[:1]]
    Path("results/drafts.svg").write_text(svg(rows, [task.id for task in chosen]))


if __name__ == "__main__":
    main(sys.argv[1:])
