"""Network namespaces, rtnetlink and ethtool: the parts that know nothing of XDP or BPF."""
