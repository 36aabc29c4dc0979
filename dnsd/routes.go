package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/dnsd/admin"
	"github.com/nodens-dns/nodens/dnsd/config"
	"github.com/nodens-dns/nodens/dnsd/etcd"
	"github.com/nodens-dns/nodens/dnsd/machine"
	"github.com/nodens-dns/nodens/dnsd/routes"
)

// routesCommand keeps host and path routes in etcd, for all nodes that read them from there.
func routesCommand() *cobra.Command {
	var path, output string
	cmd := &cobra.Command{Use: "routes", Short: "Keep host and path routes in etcd"}
	cmd.PersistentFlags().StringVar(&path, "config", "/etc/nodens/dnsd.yaml", "dnsd's configuration, which says where etcd is")
	with := func(do func(ctx context.Context, store *etcd.Routes, args []string, out io.Writer) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			store, err := routeStore(path)
			if err != nil {
				return err
			}
			return do(cmd.Context(), store, args, cmd.OutOrStdout())
		}
	}
	list := &cobra.Command{Use: "list", Short: "List the routes", Args: cobra.NoArgs,
		RunE: with(func(ctx context.Context, store *etcd.Routes, _ []string, out io.Writer) error {
			return listRoutes(ctx, store, output, out)
		})}
	list.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.AddCommand(list,
		&cobra.Command{Use: "apply FILE...", Short: "Store the routes in files (JSON or YAML), - for standard input, and the names of their hosts", Args: cobra.MinimumNArgs(1),
			RunE: with(applyRoutes)},
		&cobra.Command{Use: "delete NAME...", Short: "Delete routes, and the names of hosts that have no other", Args: cobra.MinimumNArgs(1),
			RunE: with(func(ctx context.Context, store *etcd.Routes, args []string, out io.Writer) error {
				for _, name := range args {
					if err := store.Delete(ctx, name); err != nil {
						return err
					}
					_, _ = fmt.Fprintf(out, "%s deleted\n", name)
				}
				return nil
			})})
	return cmd
}

// routeStore is where the configuration at path has routes kept.
func routeStore(path string) (*etcd.Routes, error) {
	c, err := config.Read(path)
	switch {
	case err != nil:
		return nil, err
	case c.Etcd == nil:
		return nil, fmt.Errorf("%s has no etcd to keep routes in: set etcd.endpoints there, or put the route as a file into the folder file.dir of each node", path)
	case c.Routes == nil:
		return nil, fmt.Errorf("%s does not serve routes: set routes.file there", path)
	}
	store := &etcd.Routes{Store: etcdStore(c.Etcd), Path: c.Etcd.Path}
	store.Address, err = machine.Own(c.Routes.Address)()
	return store, err
}

// applyRoutes reads all files before it stores the first of their routes.
func applyRoutes(ctx context.Context, store *etcd.Routes, files []string, out io.Writer) error {
	var all []*routes.Object
	for _, file := range files {
		data, err := os.ReadFile(file)
		if file == "-" {
			data, err = io.ReadAll(os.Stdin)
		}
		if err == nil {
			data, err = yaml.YAMLToJSONStrict(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		o, _, err := routes.Parse(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, o)
	}
	for _, o := range all {
		if err := store.Apply(ctx, o); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "%s stored: %s is at %s\n", o.Name, o.Host, store.Address)
	}
	return nil
}

func listRoutes(ctx context.Context, store *etcd.Routes, output string, out io.Writer) error {
	if err := checkOutput(output); err != nil {
		return err
	}
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	if output == "json" {
		return admin.PrintJSON(out, all)
	}
	var errs []error
	line := func(format string, args ...any) {
		_, err := fmt.Fprintf(out, format, args...)
		errs = append(errs, err)
	}
	for _, o := range all {
		if o.Kind == "" {
			line("%s: is no route; dnsd status says why\n", o.Name)
			continue
		}
		line("%s: %s\n", o.Name, o.Host)
		for _, p := range o.Paths {
			path := p.Path
			if path == "" {
				path = "/" + p.Service + "/"
			}
			line("  %s to %s port %d\n", path, strings.TrimSpace(p.Address+" "+p.Service), p.Port)
		}
	}
	return errors.Join(errs...)
}
