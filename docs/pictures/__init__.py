"""Pictures: the documents' images, drawn by `agentpipe top` itself from a run of real workers."""
