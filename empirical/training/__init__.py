"""Training: what to train (`config`), a step (`batches`, `learner`, `graph`), the state of a run (`trainer`) and the run (`loop`)."""
