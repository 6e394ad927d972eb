"""What lies between fastxs and Xen: event channels, grants, domain states, and the pretend hypervisor."""
