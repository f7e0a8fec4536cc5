"""From a user's task to the broker: admission, dispatch, task files, schedules."""
