"""A real Xen host under QEMU: what fastxs is for, tried with a real hypervisor, real kernels, `xl` and guests."""
