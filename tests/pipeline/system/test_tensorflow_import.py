import json

from tests.support import processes


def test_settings_of_the_user_do_not_reach_keras(tmp_path, monkeypatch):
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
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KERAS_HOME", str(home / ".keras"))
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    done = processes.run_command("-c", program, cache=tmp_path / "cache")
    assert (done.returncode, done.stderr) == (0, "")
    place = tmp_path / "cache" / "graft" / "matplotlib"
    assert done.stdout == f"tensorflow float32 channels_last {place}\n"
    assert [path.name for path in home.iterdir()] == [".keras"]


def test_the_log_level_of_the_user_lets_no_line_of_tensorflow_through(monkeypatch):
    """Neither while it is imported, nor when it looks for a GPU, nor at an error."""
    program = (
        "import pipeline.system.tensorflow_import\n"
        "import tensorflow as tf\n"
        "tf.ones(2)\n"
        "bad = tf.data.Dataset.range(1).map(lambda _: tf.io.decode_jpeg(b'x'))\n"
        "try:\n"
        "    list(bad)\n"
        "except tf.errors.InvalidArgumentError:\n"
        "    print('raised')\n"
    )
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    done = processes.run_command("-c", program)
    assert (done.stdout, done.stderr) == ("raised\n", "")
