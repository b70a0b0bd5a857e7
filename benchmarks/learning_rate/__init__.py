"""How much the learning rate matters: accuracy over five decades of it, and the paper's case."""
