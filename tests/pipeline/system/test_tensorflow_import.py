import json
import os
import subprocess
import sys

from tests import conftest


def test_settings_of_the_user_do_not_reach_keras(tmp_path):
    """And nothing is written but into the cache."""
    home = tmp_path / "home"
    (home / ".keras").mkdir(parents=True)
    text = json.dumps(
        {"backend": "torch", "floatx": "float16", "image_data_format": "channels_first"}
    )
    (home / ".keras" / "keras.json").write_text(text)
    program = (
        "import pipeline.system.tensorflow_import, keras, matplotlib\n"
        "print(keras.config.backend(), keras.config.floatx(),"
        " keras.config.image_data_format(), matplotlib.get_cachedir())\n"
    )
    environment = {
        **os.environ,
        "HOME": str(home),
        "KERAS_HOME": str(home / ".keras"),
        "KERAS_BACKEND": "torch",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    environment.pop("MPLCONFIGDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=conftest.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    place = tmp_path / "cache" / "graft" / "matplotlib"
    assert done.stdout == f"tensorflow float32 channels_last {place}\n"
    assert [path.name for path in home.iterdir()] == [".keras"]
