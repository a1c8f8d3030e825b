"""Training: the data, the losses, one plain loop, and what it runs: Stage I (`stage1`) and Algorithm 1 (`algorithm1`)."""

STAGES = {"vqgan": ("vqgan",), "lq_encoder": ("lq_encoder",), "refiner": ("refiner",), "evaluator": ("evaluator",),
          "token_nets": ("refiner", "evaluator"), "iter": ("lq_encoder", "refiner", "evaluator")}
"""Which networks each stage trains."""
