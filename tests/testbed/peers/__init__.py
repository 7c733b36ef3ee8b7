"""Whole peers in virtual time: everything of a site but sockets, torch and its own clock, under random schedules."""
