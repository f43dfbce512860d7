package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"gridappliance/credential"
)

func newKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "make a node key and show its node ID",
		Long: `keygen prints a new node key, a secret, on standard output, in the form of a
master's NODE.KEY, and the node ID that belongs to it on standard error.
Workers and clients need no such key: they make their own at first boot.`,
		Example: `  (umask 077; overlayd keygen > NODE.KEY)`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := credential.NewKey()
			if err != nil {
				return err
			}
			text, err := credential.FormatKey(key)
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(text); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "node ID %s\n", credential.NodeIDOf(&key.PublicKey))
			return err
		},
	}
}
