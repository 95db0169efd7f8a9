"""CUDA graphs: what a step launches is recorded once, then replayed by one call. Of a small network, launching some five hundred
kernels one by one takes the host longer than running them takes the device."""
import torch


def repeat(step, times, device, rng):
    """Call step() that many times; on CUDA it runs once, is recorded once, and replayed."""
    if device.type != "cuda" or times < 4:
        for _ in range(times):
            step()
        return
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    if rng is not None:
        graph.register_generator_state(rng)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()                                                 # so that libraries are set up, and weights are cast
        graph.capture_begin()
        try:
            step()                                             # records, and does not run
        finally:
            graph.capture_end()                                # also when memory runs out: the caller tries with fewer documents
        for _ in range(times - 1):
            graph.replay()
    torch.cuda.current_stream().wait_stream(stream)


class Recorded:
    """work(*tensors), which leaves gradients: recorded once for each shape of these tensors, then replayed on other numbers."""

    def __init__(self, work, parameters):
        self.work, self.parameters, self.graphs = work, list(parameters), {}

    def record(self, inputs):
        """Run work once, and record it: -> (what it returned, (graph, what that reads, what it returns, the gradients it writes))."""
        stream = torch.cuda.Stream()                           # not the default one: what autograd did there could not be recorded
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self.work(*inputs)                        # compiles what is not compiled yet
        torch.cuda.current_stream().wait_stream(stream)
        graph, kept, reads = torch.cuda.CUDAGraph(), [p.grad for p in self.parameters], [x.clone() for x in inputs]
        for p in self.parameters:
            p.grad = None                                      # so that the graph writes its own, and does not add
        pool = next((graph.pool() for graph, *_ in self.graphs.values()), None)                # one memory for all: they run one by one
        with torch.cuda.graph(graph, pool):                    # runs nothing
            out = self.work(*reads)
        grads = [p.grad for p in self.parameters]
        for p, grad in zip(self.parameters, kept):
            p.grad = grad
        return result, (graph, reads, out, grads)

    def __call__(self, *inputs):
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self.graphs:
            if any(others[0] != shapes[0] for others in self.graphs):
                self.graphs.clear()                            # of larger micro-batches, for which memory was too small
            result, self.graphs[shapes] = self.record(inputs)
            return result
        graph, reads, out, grads = self.graphs[shapes]
        before = [p.grad if p.grad is None else p.grad.clone() for p in self.parameters]       # of earlier micro-batches
        torch._foreach_copy_(reads, list(inputs))
        graph.replay()
        for p, grad in zip(self.parameters, grads):
            p.grad = grad
        if before[0] is not None:
            torch._foreach_add_(grads, before)
        return out.clone()
