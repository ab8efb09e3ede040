"""Applications of the probability-flow ODE: latents, likelihoods and a generative prior."""
