"""CUDA graphs: the kernels of a step are recorded once, then launched by one call.

A small network takes the host longer to launch, kernel by kernel, than the device to run.
"""
import torch


def on_side_stream(work):
    """Calls work on a stream of its own and returns what it returns.

    Autograd remembers on which stream a weight was first used, and the default stream cannot be
    recorded.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def run_steps(step, times, device):
    """Calls step() that many times. On CUDA it runs once, is recorded once, and is replayed."""
    if device.type != "cuda" or times < 4:
        for _ in range(times):
            step()
        return
    graph = torch.cuda.CUDAGraph()

    def record_and_replay():
        step()                                 # so that libraries are set up and weights are cast
        # not torch.cuda.graph, which waits and empties caches: this happens often
        graph.capture_begin()
        try:
            step()                             # is recorded, and does not run
        finally:
            graph.capture_end()                # also when memory runs out: the caller tries again
        for _ in range(times - 1):
            graph.replay()
    on_side_stream(record_and_replay)


class GraphedStep:
    """work(*tensors), which leaves gradients: recorded once for each shape, then replayed.

    The graphs share the memory of what they compute on the way, as they run one after the other;
    each has gradients of its own.
    """

    def __init__(self, work, parameters):
        self.work, self.parameters = work, [p for p in parameters if p.requires_grad]
        self.graphs = {}                       # shapes -> (graph, inputs, output, gradients)

    def record(self, inputs):
        """Returns an entry of self.graphs. Nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        inputs = [x.clone() for x in inputs]
        earlier = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None                      # the graph is to write gradients, and add to none
        pool = next((entry[0].pool() for entry in self.graphs.values()), None)
        with torch.cuda.graph(graph, pool):
            output = self.work(*inputs)
        grads = [p.grad for p in self.parameters]
        for p, grad in zip(self.parameters, earlier):
            p.grad = grad
        return graph, inputs, output, grads

    def __call__(self, *inputs):
        shapes = tuple(x.shape for x in inputs)
        if any(others[0] != shapes[0] for others in self.graphs):
            self.graphs.clear()                # of larger micro-batches, which did not fit
        if not self.graphs:                    # the first call is eager: it compiles
            result = on_side_stream(lambda: self.work(*inputs))
            self.graphs[shapes] = self.record(inputs)
            return result
        if shapes not in self.graphs:
            self.graphs[shapes] = self.record(inputs)
        graph, own_inputs, output, grads = self.graphs[shapes]
        # gradients of this step's earlier micro-batches, which the replay may overwrite
        earlier = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        torch._foreach_copy_(own_inputs, list(inputs))
        graph.replay()
        for p, grad in zip(self.parameters, grads):
            p.grad = grad
        if earlier[0] is not None:
            torch._foreach_add_(grads, earlier)
        return output.clone()                  # the next replay writes to the same place


class GraphedUpdate:
    """work(), which changes tensors in place: recorded at the second call, then replayed.

    The first call compiles. The tensors must stay the same ones.
    """

    def __init__(self, work):
        self.work, self.graph, self.called = work, None, False

    def __call__(self):
        if not self.called:
            on_side_stream(self.work)
            self.called = True
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.work()                    # is recorded, and does not run
        self.graph.replay()
