"""The cost of a step: time, memory and compilation, against SGD, Adam and Muon."""
