"""The integration of `own_model`: the facts of the model, and nothing else."""

from ssg_kernels.integrations import Integration, NextScale


class GuidedOwnModel(NextScale):
    """Guide an OwnModel: inside the context `model.generate(...)` is guided."""

    methods = ("generate",)  # the sampling method
    maker = "predict"  # the method that makes the logits of a scale, both halves of cfg
    sampler = "draw"  # the function of the module that samples the merged logits
    needs = ("embedding", "position")  # what else tells an OwnModel from other models

    def sizes(self):
        return self.arguments["sides"]  # of this call; int n is an n x n grid


attach = Integration(GuidedOwnModel)
