"""What opens a run folder works while several processes train in it, and after."""

from minillm.distributed.machine import Machine
from minillm.training import Reporter, TrainingSettings, resume_run, start_run, train


def used(minillm, folder, out):
    """What the commands say of a folder."""
    assert "perplexity" in minillm("evaluate", folder).stdout
    assert minillm("generate", folder, "--prompt", "the", "--max-tokens", 3, "--temperature", 0).stdout.startswith(
        "the"
    )
    minillm("export", folder, out)
    assert minillm("generate", out, "--prompt", "the", "--max-tokens", 3, "--temperature", 0).stdout.startswith("the")


def test_commands_on_the_folder_of_a_run_of_two_processes(minillm, tmp_path):
    settings = dict(batch_size=4, max_steps=4, eval_interval=2, eval_windows=2, sample_tokens=0, batch_parts=2)
    model = dict(n_layer=1, n_head=2, d_model=16, context_length=8)
    run = start_run(TrainingSettings(data=(str(tmp_path / "text.txt"),), **settings), model, tmp_path / "run")

    class Looking(Reporter):
        looked = 0

        def on_step(self, step, *numbers):
            if step == 3:
                used(minillm, tmp_path / "run", tmp_path / "meanwhile")
                self.looked += 1

    reporter = Looking()
    train(run, reporter, machine=Machine(processes=2, threads=1))
    assert reporter.looked == 1
    used(minillm, tmp_path / "run", tmp_path / "after")
    before = (tmp_path / "run" / "training" / "optimizer.safetensors").read_bytes()
    run.save()  # by the first process alone, which has all of the state
    assert (tmp_path / "run" / "training" / "optimizer.safetensors").read_bytes() == before
    resume_run(tmp_path / "run").release()
