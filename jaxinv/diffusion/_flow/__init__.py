"""What the probability-flow ODE gives: latents, likelihoods and a generative prior."""
