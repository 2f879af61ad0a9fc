"""The same planted faults in several simulators of CUDA: python -m benchmarks.simulators"""
