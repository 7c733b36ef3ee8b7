"""Every decoder and reader of files under damaged and made-up bytes: it raises an error of ours, or gives a value."""
