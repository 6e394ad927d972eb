"""Xen's own commands, `xenstore-ls` and its sisters: the same options, standard output and exit statuses.

    text       values as the commands show and take them, numbers as C reads them
    nodes      read, write, rm, exists, list, chmod, watch
    tree       ls
    control    control
    main       one program under many names; options

What they do is what Debian's xenstore-utils 4.17 do; docs/commands.md lists where ours differ.
"""
