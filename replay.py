"""CUDA graphs: what a step launches is recorded once, then replayed by one call. Of a small network, launching some five hundred
kernels one by one takes the host longer than running them takes the device."""
import torch


def repeat(step, times, device):
    """Call step() that many times; on CUDA it runs once, is recorded once, and replayed."""
    if device.type != "cuda" or times < 4:
        for _ in range(times):
            step()
        return
    graph = torch.cuda.CUDAGraph()

    def record_and_replay():
        step()                                                 # so that libraries are set up, and weights are cast
        graph.capture_begin()                                  # not torch.cuda.graph, which waits and empties caches: this happens often
        try:
            step()                                             # records, and does not run
        finally:
            graph.capture_end()                                # also when memory runs out: the caller tries with fewer documents
        for _ in range(times - 1):
            graph.replay()
    beside(record_and_replay)


class Recorded:
    """Work that leaves gradients, called on tensors: recorded once for each shape of these, then replayed on other numbers. The graphs have
    one memory for what they compute on the way, as they run one by one; each has gradients of its own."""

    def __init__(self, parameters):
        self.parameters, self.graphs = list(parameters), {}

    def record(self, work, inputs):
        """-> (graph, what it reads, what it returns, the gradients it writes). Nothing is computed yet."""
        graph, kept, reads = torch.cuda.CUDAGraph(), [p.grad for p in self.parameters], [x.clone() for x in inputs]
        for p in self.parameters:
            p.grad = None                                      # so that the graph writes gradients, and does not add to those there are
        pool = next((graph.pool() for graph, *_ in self.graphs.values()), None)
        with torch.cuda.graph(graph, pool):                    # it also empties torch's caches: a second's work, but rare
            out = work(*reads)
        grads = [p.grad for p in self.parameters]
        for p, grad in zip(self.parameters, kept):
            p.grad = grad
        return graph, reads, out, grads

    def __call__(self, work, *inputs):
        shapes = tuple(x.shape for x in inputs)
        if any(others[0] != shapes[0] for others in self.graphs):
            self.graphs.clear()                                # of larger micro-batches, for which memory was too small
        if not self.graphs:                                    # the first time plainly: what is not compiled yet cannot be recorded
            result = beside(lambda: work(*inputs))
            self.graphs[shapes] = self.record(work, inputs)
            return result
        if shapes not in self.graphs:
            self.graphs[shapes] = self.record(work, inputs)
        graph, reads, out, grads = self.graphs[shapes]
        before = [p.grad if p.grad is None else p.grad.clone() for p in self.parameters]       # of earlier micro-batches
        torch._foreach_copy_(reads, list(inputs))
        graph.replay()
        for p, grad in zip(self.parameters, grads):
            p.grad = grad
        if before[0] is not None:
            torch._foreach_add_(grads, before)
        return out.clone()                                     # the next replay writes here again


def beside(work):
    """Call work on a stream of its own: autograd remembers where a weight was first used, and the default stream cannot be recorded."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream().wait_stream(stream)
    return result
