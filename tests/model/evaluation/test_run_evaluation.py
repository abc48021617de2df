from model.evaluation import run_evaluation
from model.evaluation.run_evaluation import EvaluationData
from model.runs import run_folder
from tests.support import small_runs


def test_a_run_is_described_with_the_accuracy_of_these_weights(found, tmp_path):
    run = small_runs.write_run(tmp_path / "run", found, small_runs.colour_model())
    unknown = (
        "run run: test, 3 classes, not evaluated yet: python evaluate.py --run_dir="
    )
    assert run_evaluation.describe(run).startswith(unknown)
    data = EvaluationData(records=found, split="test")
    figures = run_evaluation.evaluate_run(run, data).figures
    low, high = figures["accuracy_ci95"]
    assert run_evaluation.describe(run) == (
        f"run run: test, 3 classes, accuracy {figures['accuracy']:.3f} on "
        f"{figures['num_examples']} test photos (95 % interval {low:.3f} to {high:.3f})"
        f", balanced accuracy {figures['balanced_accuracy']:.3f}"
    )
    with (run.directory / run_folder.MODEL_NAME).open("ab") as file:
        file.write(b"other weights")
    assert run_evaluation.describe(run).startswith(unknown)
