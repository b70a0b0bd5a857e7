"""What a step costs: time, memory and compilation, beside SGD, Adam and Muon."""
