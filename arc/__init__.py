"""What ARC is: tokens, tasks, views, leaks, votes, pictures. Nothing here knows of networks."""
