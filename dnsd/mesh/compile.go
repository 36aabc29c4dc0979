package mesh

// Compile says what follows from inputs, which come in order of precedence, the strongest first.
func Compile(inputs []Input, vips *VIPs) *Plan {
	return &Plan{}
}
