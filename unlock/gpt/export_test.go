package gpt

var ErrTable = errTable
