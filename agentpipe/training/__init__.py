"""For trainers: complete groups of rollouts, each used once, and the loop that sends their prompts.

A trainer meets four classes. ``Rollouts`` (``rollout_loop``) sends prompts and yields batches;
``GroupStream`` (``group_stream``) only reads groups; ``AgentStreamingDataset`` (``dataset``) is
either as a PyTorch dataset; ``Policy`` (``policy``) tells workers about new weights.

What they are made of, in the order in which a prompt becomes part of a batch::

    prompt_source   a prompt is drawn from the user's iterable, and the place in it saved
    prompt_feed     it is sent as a group whose id is its position: a restart repeats no group
    assembly        its members' records become a group, in whatever order they arrive
    group_choice    the group is wanted, or it is not and why
    used_groups     what was used, and what of it can be committed
    rollout_group, rollout_batch   what a trainer gets

Beside them: ``loop_run`` and ``loop_connections`` open a loop, ``loop_lease`` keeps a second
trainer out, ``loop_report`` tells observers of it, ``obstacles`` and ``wait_warnings`` say why it
waits, ``states`` checks what is loaded, ``shard`` is one of several readers. ``reading``,
``result_items``, ``group_items`` and ``loader_worker`` belong to the dataset.
"""
